//! What is kept and what goes: retention, lawful erasure, legal hold.
