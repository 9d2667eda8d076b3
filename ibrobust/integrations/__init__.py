"""Other packages: their models and tools for ibrobust, and the models of ibrobust for them."""
