"""Certificates, private keys in files, the control CA and the API's certificate. Imports ``support`` at most."""
