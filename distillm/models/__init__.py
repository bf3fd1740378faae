"""Student and teacher: loading, checks, precision, generation."""
