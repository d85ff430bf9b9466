"""Pure: judges what the sources show and composes the set to install. Imports the contract and other modules here."""
