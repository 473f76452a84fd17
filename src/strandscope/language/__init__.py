"""What a language model makes of its context, beside what counting makes of it: texts, losses, and the law of their fall."""
