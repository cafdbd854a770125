"""Networks: trunks, Sobel, batch norm, heads and losses."""
