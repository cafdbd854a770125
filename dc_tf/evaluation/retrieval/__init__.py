"""Instance retrieval with R-MAC on Oxford and Paris, and on their revisited forms."""
