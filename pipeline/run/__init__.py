"""One run of `prepare`: planning, tasks, runners, publishing."""
