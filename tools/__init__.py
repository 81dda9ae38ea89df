"""Tools of this repository: its site, README.md, saved outputs and measures

They are no part of the wheel and run at the root of a checkout, with the `dev` extra installed.
"""
