"""Everything that talks to another node, or to people, over HTTP."""
