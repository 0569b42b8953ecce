"""Airflow and its Celery workers."""
