"""
The worked example of ``deploy/example`` on one machine: a stand-in control plane, and a real Envoy for every workload.

Rules that must stay true here:

- What the control plane is told is what was rendered and committed; what is expected is what the configuration says.
- It says what it is: a stand-in for Kuma, with real Envoys that enforce.

``python -m tests.example`` plays it and prints who reached whom.
"""
