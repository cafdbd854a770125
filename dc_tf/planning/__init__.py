"""What a run needs in memory, disk, network and time; starts nothing."""
