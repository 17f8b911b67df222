"""Every table and page of numbers."""
