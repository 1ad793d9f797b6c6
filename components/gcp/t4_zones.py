"""Where Google Cloud has T4s."""

T4_ZONES = {
    # https://cloud.google.com/compute/docs/gpus/gpu-regions-zones
    "asia-east1": "ac", "asia-east2": "ac", "asia-northeast1": "ac", "asia-northeast3": "bc", "asia-south1": "ab",
    "asia-southeast1": "abc", "asia-southeast2": "ab", "australia-southeast1": "ac", "europe-central2": "bc",
    "europe-west1": "bcd", "europe-west2": "ab", "europe-west3": "b", "europe-west4": "abc", "me-west1": "bc",
    "northamerica-northeast1": "c", "southamerica-east1": "ac", "us-central1": "abcf", "us-east1": "cd",
    "us-east4": "abc", "us-west1": "ab", "us-west2": "bc", "us-west3": "b", "us-west4": "ab",
}  # fmt: skip
"""Region → letters of its zones that have T4s."""
