"""A simulator of model providers: it speaks their wire formats, and makes its answers up."""
