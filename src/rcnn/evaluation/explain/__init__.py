"""Why a model found an object, or missed it: the stages of its detection, one after the other."""
