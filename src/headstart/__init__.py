"""Transfer learning on a folder of pictures: a new head on a frozen, pre-trained backbone."""
