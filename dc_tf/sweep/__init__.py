"""Networks of an ablation: trained, evaluated, in one table and one plot."""
