"""The holder process: owns what must outlive controller and data plane (design note 0001)."""
