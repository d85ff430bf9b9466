"""The parts of one turn of the rotation controller: each does one step, and the controller puts them in order."""
