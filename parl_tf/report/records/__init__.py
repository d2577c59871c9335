"""Records as a report takes them: collected, compared, chosen and named."""
