"""Test-time budgets on recorded histories: how many prompts are solved by so many samples?"""
