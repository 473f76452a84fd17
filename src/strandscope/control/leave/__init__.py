"""Edits that leave: a GGUF control vector, a plain Hugging Face folder, a PEFT adapter; and a control vector read back.

Each is asked for with the edits that `attach` takes, {site: [(edit, scope)]}, and gives what computes the same without us, or
refuses with the reason. `plan` says what weights can express.
"""
