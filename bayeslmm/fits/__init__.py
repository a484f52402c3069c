"""The fits a user holds: thin objects that delegate to results, plots and the report."""
