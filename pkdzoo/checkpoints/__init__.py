"""Reading of weights in several formats and key layouts, and writing of our own."""

from pkdzoo.checkpoints.io import read_state_dict, save_safetensors
from pkdzoo.checkpoints.keymap import Rule, load_strictly, select_matching, to_our_keys

__all__ = ["Rule", "load_strictly", "read_state_dict", "save_safetensors", "select_matching", "to_our_keys"]
