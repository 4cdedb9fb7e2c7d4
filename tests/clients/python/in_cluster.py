"""Calls the API as a program in a pod does: where it is, whom to trust and who one is, the pod itself says.

Prints as whom it is known.
"""

from kubernetes import client, config

config.load_incluster_config()
review = client.AuthenticationV1Api().create_self_subject_review(client.V1SelfSubjectReview())
print(review.status.user_info.username)
