//! iommu-trace
