//! Files of JSON lines, by day: whole lines only, on the disk before they count as delivered.
