"""The pure half of a race: study, search, phases, certificates, cost."""
