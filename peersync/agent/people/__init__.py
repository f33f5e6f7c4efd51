"""The people's listener: who gets in, what each may do, and what the page shows."""
