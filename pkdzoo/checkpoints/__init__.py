"""Reading of weights in several formats and key layouts, and writing of our own."""

from pkdzoo.checkpoints.io import read_state_dict, save_safetensors
from pkdzoo.checkpoints.keymap import Rule, fitting, load_strictly, to_our_keys

__all__ = ["Rule", "fitting", "load_strictly", "read_state_dict", "save_safetensors", "to_our_keys"]
