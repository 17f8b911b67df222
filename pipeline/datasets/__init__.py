"""Raw data sets: one reader and one table per layout."""
