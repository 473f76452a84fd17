"""Monitors: a score per sequence, a threshold with a stated false-alarm rate, and an alarm when traffic drifts.

What is here takes scores, wherever they come from, and promises only what holds whatever the scores' distribution is. Where a
promise needs sequences that are alike (exchangeable), the module says so; nothing here can check it but `drift`.
"""
