"""Over-parameterised linear and kernel models: what they fit, what they learn and what interpolation costs."""
