"""What people who write a store of their own test it with: a disk that loses power, faults, conformance."""
