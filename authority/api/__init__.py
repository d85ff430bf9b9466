"""The HTTPS API: routes, authentication, JSON views, and the proxy to the leader. Imports ``controllers`` and lower."""
