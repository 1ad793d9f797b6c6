"""What runs beside a T4 to build an engine, in Triton's own image: Python 3.10 and its standard library, no more."""
