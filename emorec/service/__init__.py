"""The recommender as a service; `emorec.service.app` has its routes."""
