"""Contamination: does a prompt set contain documents of an evaluation?"""
