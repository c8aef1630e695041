"""The cases of the resume matrix: trainings, data, and the places where a training stops."""
