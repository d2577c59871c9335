"""Tables as functions of records, and their forms as text."""
