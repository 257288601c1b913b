//! iommu-trace-common
