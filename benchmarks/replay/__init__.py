"""Replay of recorded histories, in process: how well do predictors predict, and what do they choose?"""
