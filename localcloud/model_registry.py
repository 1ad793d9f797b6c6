"""SageMaker's model registry, as far as moto lacks it: deletion, numbers that are not given twice, and tokens."""

from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.sagemaker.exceptions import ConflictException, ValidationError
from moto.sagemaker.models import ModelPackage
from moto.sagemaker.responses import SageMakerResponse


class ModelRegistry(SageMakerResponse):
    """Model package groups and their versions."""

    def create_model_package_group(self) -> ActionResult:
        """As moto, which forgets the versions of one that is there."""
        name = self._get_param("ModelPackageGroupName")
        if name in self.sagemaker_backend.model_package_groups:
            raise ValidationError(f"Model Package Group already exists: {name}")
        return super().create_model_package_group()

    def create_model_package(self) -> ActionResult:
        """As moto, which makes a second version of a repeated request, and one over another where one was deleted."""
        versions, token = self._versions(self._get_param("ModelPackageGroupName")), self._get_param("ClientToken")
        for version in versions:
            if token and version.client_token == token:
                return ActionResult({"ModelPackageArn": version.arn})
        packages = self.sagemaker_backend.model_packages
        # moto counts the versions for the next number: as many as there have been.
        latest = max((version.model_package_version or 0 for version in versions), default=0)
        gaps = {f"gap-{number}": versions[0] for number in range(latest - len(versions))}
        packages.update(gaps)
        try:
            return super().create_model_package()
        finally:
            for gap in gaps:
                del packages[gap]

    def delete_model_package(self) -> ActionResult:
        """Delete one version."""
        package = self.sagemaker_backend.describe_model_package(self._get_param("ModelPackageName"))
        del self.sagemaker_backend.model_packages[package.arn]
        return EmptyResult()

    def delete_model_package_group(self) -> ActionResult:
        """Delete a group, unless it has a version: a ConflictException in the API, in what words is not known here."""
        name = self._get_param("ModelPackageGroupName")
        group = self.sagemaker_backend.describe_model_package_group(name)
        if versions := self._versions(name):
            raise ConflictException(f"Cannot delete {group.arn}: it has {len(versions)} model package(s).")
        del self.sagemaker_backend.model_package_groups[name]
        return EmptyResult()

    def _versions(self, group: str | None) -> list[ModelPackage]:
        packages: Any = self.sagemaker_backend.model_packages.values()
        return [each for each in packages if group and each.model_package_group_name == group]
