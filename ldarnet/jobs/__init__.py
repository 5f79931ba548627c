"""Programs of this project as trials of Ray Tune: sweeps and ablations run their training jobs through this package."""
