//! Thousands of endpoints at once, and a thousand updates a second while calls go on.
