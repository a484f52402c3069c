"""Independent residuals with a variance per cell of rows, from cross-products cell by cell."""
