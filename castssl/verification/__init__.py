"""The checks of a recipe: is its run the one that it should be, on this machine, with these flags?"""
