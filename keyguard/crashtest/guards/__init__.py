"""The guards that come along, one file each, called as `--guard` calls them; the class is `Guard`. Only the workers import them."""
