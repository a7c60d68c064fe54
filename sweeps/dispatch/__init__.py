"""The impure half of a race: where results live, who may write them, who trains."""
