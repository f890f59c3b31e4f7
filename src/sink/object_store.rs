//! Objects in a bucket or a folder, by account and hour of storing.
