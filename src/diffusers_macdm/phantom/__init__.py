"""The embedded phantom: procedural distal tibias with and without metaphyseal lesions."""
