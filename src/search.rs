//! Full-text search: what a query means, how text is cut into words, which passage to show.
