"""The adaptive limit against modelled servers."""
